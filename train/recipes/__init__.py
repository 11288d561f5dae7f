"""Recipes: one `recipe` a file."""
