"""What a client may do to a connection: how much it may send before it has asked, and how long it may take.

uvicorn bounds none of it, so this is the one place that does: `protocol` what gets too large, `watch` what takes too
long, and `turns` who sends much beside others. `exchanges` are requests that need no application.
"""
