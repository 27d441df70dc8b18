"""All SQL. Functions take a session or connection; nothing here commits but where it says so."""
