"""MLflow, at arm's length: the tracker that a run talks to, and the child process that talks to MLflow."""
