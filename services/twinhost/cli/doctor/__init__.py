"""`doctor`: a running deployment, examined from either host."""
