"""What the database itself can do, and where a record's CPU goes: the limits that flows stand beside."""
