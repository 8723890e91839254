"""What may stand in a spec: one file for each family of certifiers. `certify.spec` puts them together."""
