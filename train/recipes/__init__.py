"""Recipes: one `recipe = Recipe(...)` a file. Each says where its data comes from and how it is prepared."""
