"""The version of the project. pyproject.toml reads it here, checkpoints hold it, and CHANGELOG.md begins with it.

The metadata of an installed package have it too, but the project also runs where it is not installed.
"""
VERSION = "0.2.0"
