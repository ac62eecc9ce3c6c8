"""Text classifiers on the mean of the last states, as in sentence encoders.

Hugging Face's own classifiers read the first token. These have no pooler: one linear layer stands
on the mean over the real positions. A folder of one opens with `tvlens.load`.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import BertForSequenceClassification, RobertaForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from .readouts import mean_token


class _OnTheMean:
    """Mixin for classifiers that read the mean."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.base_model.pooler = None
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, "row pos"] | None = None,
        attention_mask: Int[Tensor, "row pos"] | None = None,
        inputs_embeds: Float[Tensor, "row pos d"] | None = None,
        **options: Any,
    ) -> SequenceClassifierOutput:
        options |= dict(input_ids=input_ids, inputs_embeds=inputs_embeds)
        outputs = self.base_model(attention_mask=attention_mask, **options)
        states = outputs.last_hidden_state
        if attention_mask is None:
            attention_mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
        pooled = self.dropout(mean_token(states, attention_mask.sum(1)))
        return SequenceClassifierOutput(
            logits=self.classifier(pooled),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class BertForMeanClassification(_OnTheMean, BertForSequenceClassification):
    """BERT with a linear classifier on the mean of its last states."""


class RobertaForMeanClassification(_OnTheMean, RobertaForSequenceClassification):
    """RoBERTa with a linear classifier on the mean of its last states."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)  # RoBERTa's is inside its head


MEAN_CLASSIFIERS = {
    cls.__name__: cls for cls in (BertForMeanClassification, RobertaForMeanClassification)
}
