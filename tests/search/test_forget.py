"""A client is forgotten in a real cluster, killed at different moments."""

from __future__ import annotations

import signal
import subprocess
import sys

from elasticsearch import Elasticsearch

from flywheel.config.store import ElasticsearchConfig
from flywheel.stores import PaidAnswer
from flywheel.stores.elasticsearch import ElasticsearchStore
from flywheel.stores.elasticsearch.indexes import SCHEMAS
from tests.unit.news_records import news_record
from tests.unit.store_contract import ALWAYS

GONE, STAYS = ("news_classifier", "zorblatt"), ("news_classifier", "quuxly")

# Ends itself by SIGKILL before a call of a number that changes something.
KILLED = """
import itertools, os, signal, sys
from flywheel.config.store import ElasticsearchConfig
from flywheel.stores.elasticsearch import ElasticsearchStore, client, forgetting

forgetting.DELETE_BATCH = forgetting.BATCH = 40
numbers, last = itertools.count(1), int(sys.argv[2])
call = client.Cluster.call

def counted(self, doing, *arguments, **named):
    if doing.startswith(("write", "flush", "merge", "set up")) and next(numbers) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return call(self, doing, *arguments, **named)

client.Cluster.call = counted
with ElasticsearchStore(ElasticsearchConfig.model_validate_json(sys.argv[1])) as store:
    print("opened", flush=True)
    store.forget([("news_classifier", "zorblatt")])
print("done", flush=True)
"""


def everything(store: ElasticsearchStore) -> str:
    """Return all documents of all indexes, with their ids, as text."""
    client: Elasticsearch = store._cluster.client
    found = []
    for schema in SCHEMAS:
        index = f"{store.config.index}-{schema.name}"
        client.indices.refresh(index=index)
        hits = client.search(index=index, size=5000)["hits"]["hits"]
        found += [f"{hit['_id']} {hit['_source']}" for hit in hits]
    return "\n".join(found)


def test_killed_five_times_it_leaves_nothing_of_the_one_and_touches_nothing_of_the_other(
    store: ElasticsearchStore, config: ElasticsearchConfig
) -> None:
    prompt = "Sort this headline into one of these classes. " * 20
    for workload, client in (GONE, STAYS):  # the one who goes first: the others refer to his text
        store.write(
            news_record(f"{prompt}{n:03d} {client} no {n}", client_id=client, timestamp=1000 + n)
            for n in range(150)
        )
        answers = [(f"{n:03d}-{client}", PaidAnswer(f"{client} says so", "m", n)) for n in range(90)]
        store.put_answers([*answers, ("shared", PaidAnswer("[[[OTHER]]]", "m", 1))], (workload, client))
        store.own_answers((workload, client), ["shared"])
    gone = [record.id for record in store.read(*GONE, ALWAYS)]
    records, owners = list(store.read(*STAYS, ALWAYS)), sorted(store.read_owners())
    answers = store.get_answers([key for owner, key in owners if owner == STAYS])
    assert "zorblatt" in everything(store) and len(gone) == 150

    def run(last: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED, config.model_dump_json(), str(last)]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)

    # Among records (twice), answers, prompts and rewritten records.
    for last in (2, 3, 2, 4, 5):
        killed = run(last)
        assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, "opened\n")
        assert list(ElasticsearchStore(config).read(*STAYS, ALWAYS)) == records
    assert run(0).stdout == "opened\ndone\n"
    left = everything(store)
    assert "zorblatt" not in left and not [record_id for record_id in gone if record_id in left]
    with ElasticsearchStore(config) as opened:
        assert list(opened.read(*STAYS, ALWAYS)) == records
        assert opened.get_answers([key for owner, key in owners if owner == STAYS]) == answers
        assert sorted(opened.read_owners()) == [one for one in owners if one[0] == STAYS]
        assert opened.scopes() == [STAYS]
    # Not in the segments either, which a deletion alone leaves as they are.
    names = ",".join(f"{config.index}-{schema.name}" for schema in SCHEMAS)
    stats = store._cluster.client.indices.stats(index=names, metric="docs")
    assert stats["_all"]["total"]["docs"]["deleted"] == 0
