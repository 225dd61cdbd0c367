"""How good a result is, against lesions that are known."""
