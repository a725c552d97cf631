"""The promises of twinhost, each as a test."""
