"""What knows nothing of the flywheel: errors, files written whole, what may be shown, Airflow's words."""
