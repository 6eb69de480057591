"""Hugging Face encoders (BERT, RoBERTa, DeBERTa, ModernBERT, MiniLM) with a head over the classes: `encoder`.

LoRA adapters on the encoder's linear layers, and the head whole, by peft's sequence classification. The input
is a record's own text.
"""

from flywheel.students.encoder.student import load, train

__all__ = ["load", "train"]
