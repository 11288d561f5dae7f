"""Recipes: one `recipe = Recipe(...)` in each file, which says where its data come from and how to prepare them."""
