"""The command line: one module per verb (docs/guide/cli.md)."""
