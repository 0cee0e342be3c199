"""Mutation tests of src: see `__main__`."""
