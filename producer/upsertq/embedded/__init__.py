"""The embedded server, which commands share where no server is given."""
