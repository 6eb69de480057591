"""Runtime `kubernetes`: every job is a pod of a cluster, and no worker slot is held while it waits or works.

    job.py          PodJob: what a task hands to the triggerer
    job_trigger.py  JobTrigger: has the job done in a pod, then ends the task
    pods.py         the pod of a job, from typed config
    operator.py     PodOperator: Airflow's operator, which describes the pod
    trigger.py      PodTrigger: makes the pod, waits, follows its log, deletes it
    explain.py      what a pod waits for or died of, in a sentence
    others.py       what the containers beside the job's own did
    watch.py        one watch of a namespace, shared by the triggers of a process
    logs.py         each line of a pod's log once

The pod's name is made from its job, so there is never more than one for it, whoever is restarted meanwhile;
what a job made is looked for in the artifact root, whatever became of its pod.
"""
