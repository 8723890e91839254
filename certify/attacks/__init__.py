"""Attacks: inputs with another answer, and so upper limits of every true radius. They yield distances, never radii."""
