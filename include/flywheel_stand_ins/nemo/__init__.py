"""A stand-in for the NeMo microservices: their APIs, with real work behind them. It is no NeMo.

    /nemo        entity store, Customizer, Evaluator, Deployment Manager
    /nim         the NIM proxy: an OpenAI API that answers for what is deployed
    /datastore   the Datastore: the Hugging Face Hub's API under /v1/hf

Every request and every answer is checked against the types of the official client, `nemo-microservices`.
Customization jobs train the demo students with flywheel's own code, NIMs answer with its own generation. For
demos and tests: `python -m flywheel_stand_ins nemo`. It can be slow, fail, and forget nothing when it is
restarted."""
