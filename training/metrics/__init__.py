"""How good a gate is: labelled faces beside its scores, and every figure made from them."""
