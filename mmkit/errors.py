"""The error for bad input: shown to people as its message alone, without a stack trace."""


class UserError(ValueError):
    """Something the user gave cannot be used. The message names the file, line, key or value, and what to do."""
