"""What the operating system gives: durable files, SQLite, commands, systemd, threads."""
