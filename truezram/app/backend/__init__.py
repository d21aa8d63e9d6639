"""The engine as the app sees it: the protocol and its values, the real one, a recorded and a replayed one; the thread
that reads snapshots and the jobs that make all other calls."""
