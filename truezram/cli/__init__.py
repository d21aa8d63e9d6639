"""The command line: `main` finds the verb and runs it; `verbs` has one module a verb."""
