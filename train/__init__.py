"""Training for audax-eqx: recipes, objectives, the step and the loop. `audax-train --help` lists the recipes."""
