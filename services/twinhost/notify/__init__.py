"""Messages to people about what is wrong: when to send which, an outbox, and the ways out."""
