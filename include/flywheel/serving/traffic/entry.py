"""A request of production with its answer, as a record of the store.

It stands there under `production:WORKLOAD`, which no run takes records of: so no student's answer trains, and
all else that a store does (each id once, forgetting, both kinds of store) holds for traffic, too. Its id is
made from the request's, so that writing it again is writing it once.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from flywheel.workloads.records import FREE_TEXT, TRAFFIC, Record

LogContent = Literal["all", "labels_only", "none"]
# In a record's response, beside the answer.
_NOTES = "production"


class TrafficEntry(BaseModel):
    """A request with its answer.

    Attributes:
        id: of the completion, as the caller saw it.
        at: when the request came, unix seconds.
        client_id: whose; `model` is the name that was asked.
        messages, tools: as asked, or the text alone; one empty message where texts are not kept.
        answer: the text that was sent; empty where texts are not kept and it is no class.
        by: a student's name, or `teacher`; `adapter` of the student that was asked first, also where the
            teacher answered in the end.
        label, confidence: of the answer that was sent; the student's calibrated probability.
        student_label, student_confidence: of the student, where the teacher answered instead.
        unsure: the student was not sure enough to answer by itself.
        why: why the teacher did not answer what it was to; empty: nothing stood in the way.
        audit: drawn for the audit, with the probability `drawn`.
        key: of the teacher's answer in the store; empty: it was asked with another prompt, or not.
        usage: the teacher's token counts; `cost` of its answer, by teacher.prices; `found`: it was there.
        seconds: from the request to the answer.
        caller: name of the key that asked.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    at: float
    workload_id: str
    client_id: str
    model: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    answer: str
    tool_calls: list[dict[str, Any]] | None = None
    by: str
    adapter: str | None = None
    label: str | None = None
    confidence: float | None = None
    student_label: str | None = None
    student_confidence: float | None = None
    unsure: bool = False
    why: str = ""
    audit: bool = False
    drawn: float | None = None
    key: str = ""
    usage: dict[str, Any] = Field(default_factory=dict)
    cost: float = 0.0
    found: bool = False
    seconds: float = 0.0
    caller: str | None = None

    @property
    def by_teacher(self) -> bool:
        """Whether the teacher answered."""
        return self.by == "teacher"

    @property
    def has_text(self) -> bool:
        """Whether it was kept what was asked."""
        return any(message.get("content") for message in self.messages)

    def line(self) -> bytes:
        """Return it as a line of a segment."""
        return orjson.dumps(
            self.model_dump(mode="json", exclude_defaults=True), option=orjson.OPT_APPEND_NEWLINE
        )

    def without_texts(self) -> TrafficEntry:
        """Return it with nothing of what was asked, and of the answer its class alone."""
        kept = self.answer if self.label is not None else ""
        empty = [{"role": "user", "content": ""}]
        return self.model_copy(
            update={"messages": empty, "tools": None, "tool_calls": None, "answer": kept, "key": ""}
        )

    def record(self) -> Record:
        """Return it as a record of the store."""
        message: dict[str, Any] = {"role": "assistant", "content": self.answer}
        if self.tool_calls:
            message["tool_calls"] = self.tool_calls
        kept = {"messages", "tools", "answer", "tool_calls", "workload_id", "client_id"}
        notes = self.model_dump(mode="json", exclude_defaults=True, exclude=kept)
        workload_id, client_id = traffic_scope(self.workload_id, self.client_id)
        return Record(
            id=entry_id(self.id),
            workload_id=workload_id,
            client_id=client_id,
            timestamp=int(self.at),
            request={
                "model": self.model,
                "messages": self.messages,
                **({"tools": self.tools} if self.tools else {}),
            },
            response={"choices": [{"message": message}], _NOTES: notes},
            label=self.label or FREE_TEXT,
            known_at=int(self.at),
            labelled_by="teacher" if self.by_teacher else "application",
        )

    @classmethod
    def of_record(cls, record: Record) -> TrafficEntry:
        """Return the entry that a record of the store is."""
        message = record.response["choices"][0]["message"]
        return cls.model_validate(
            {
                **record.response[_NOTES],
                "workload_id": record.workload_id.removeprefix(TRAFFIC),
                "client_id": record.client_id,
                "messages": record.messages,
                "tools": record.tools or None,
                "answer": message.get("content") or "",
                "tool_calls": message.get("tool_calls"),
            }
        )


def traffic_scope(workload_id: str, client_id: str) -> tuple[str, str]:
    """Return the workload and client under which the store has the traffic of a workload and client."""
    return f"{TRAFFIC}{workload_id}", client_id


def entry_id(request_id: str) -> str:
    """Return the id of a request's record: 32 hex digits."""
    return hashlib.sha256(f"request {request_id}".encode()).hexdigest()[:32]
