"""The mixed operation: a whole cell of weighted candidates as one differentiable function."""
