"""The operators' page: what browsers get where others get JSON or text, and the buttons."""
