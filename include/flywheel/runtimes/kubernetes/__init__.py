"""Runtime `kubernetes`: every job is a pod of a cluster, and no worker slot is held while it waits or works.

    runtime.py      KubernetesRuntime
    operator.py     PodOperator: the task of a job, a KubernetesPodOperator
    shard_operator.py  PodShardOperator: the task of a labelled history's shard
    described.py    DescribedPod: what both have in common
    job.py          PodJob: what is to run in a pod
    pods.py         the pod of a job, from typed config
    trigger.py      PodTrigger: makes the pod, waits, follows its log, deletes it
    job_trigger.py  JobTrigger: the same for a task, which it ends where that went well
    sweep.py        no pod of a run is left
    explain.py      what a pod waits for or died of, in a sentence
    others.py       what the containers beside the job's own did
    watch.py        one watch of a namespace, shared by the triggers of a process
    logs.py         each line of a pod's log once

The pod's name is made from its job, so there is never more than one for it, whoever is restarted meanwhile;
what a job made is looked for in the artifact root, whatever became of its pod.
"""
