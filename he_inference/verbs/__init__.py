"""The command line's verbs, a file for each flow. `--help` is quick: a verb loads what it runs."""
