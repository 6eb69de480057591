"""The model work: fine-tuning with a shared prefix, generation, adapters and scores.

Nothing here starts threads or touches a GPU when imported: a server that imported it once forks for each job.
"""
