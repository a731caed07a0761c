"""The words that everybody uses, as frozen records: no files, no clock, no environment."""
