"""What is run, as data: the tables' TOML files, the profiles, the runs they plan and the runs' identities."""
