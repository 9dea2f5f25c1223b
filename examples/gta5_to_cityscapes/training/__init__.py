"""The training loop, what its steps are made of, and what is done with a network once it has learned."""
