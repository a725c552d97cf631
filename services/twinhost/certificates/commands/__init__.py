"""The commands of certs-init: each module adds its own to the command line, and says what came of it."""
