"""Files as they come: lines, delimited text, JSON lines and Parquet become chunks of Arrow columns, before any meaning."""
