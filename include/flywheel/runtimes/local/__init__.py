"""Runtime `local`: every job is a process of this machine, and its task holds a worker slot meanwhile.

runtime.py      LocalRuntime
operator.py     the task of a job
processes.py    a job's process, forked or new, from its place in the line to its end
slots.py        places for jobs on this machine
fork_server.py  a process that has the heavy libraries imported, and forks jobs
fork_client.py  starting a job through it
"""
