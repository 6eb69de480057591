"""The champion answers: an endpoint that speaks OpenAI's API, in a process of its own (`flywheel serve`).

settings -> models (which champion, which adapter) -> batches -> student (form, engine, probabilities)
app: routes, keys, bounds, errors in OpenAI's form
"""
