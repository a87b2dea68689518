"""What a method is made of: stateless functions and frozen values that know nothing of networks."""
