"""Hugging Face encoders (BERT, RoBERTa, DeBERTa, ModernBERT, MiniLM) with a head over the classes: `encoder`.

LoRA adapters on the encoder's linear layers by peft, and the head whole. The input is a record's own text.
"""

from flywheel.students.encoder.student import load, train

__all__ = ["load", "train"]
