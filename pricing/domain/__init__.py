"""Values, rules and errors of pricing. Standard library only."""
