"""A validating Pinecone data plane on loopback, for demos, tests and rehearsals."""
