"""Navigator, the web server, as seen from outside."""
