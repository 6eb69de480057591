"""The orchestrator API: a FastAPI application that Airflow's API server mounts at /flywheel."""
