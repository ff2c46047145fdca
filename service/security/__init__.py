"""Who may do what (keys, access, usage), over which connections (tls), and that both are read again (watching)."""
