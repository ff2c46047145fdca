"""Several processes as one server: who starts them, who tells them what to serve, and how they talk."""
