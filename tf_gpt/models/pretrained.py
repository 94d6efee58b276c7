"""What the four models share: loading, saving, outputs, the internal loss."""

import keras
from keras import ops

from tf_gpt.config import OpenAIGPTConfig
from tf_gpt.models.inputs import OPTIONS, TENSORS


class PreTrained:
    """Mixed into every model class, in front of `keras.Model`.

    A class using it has a `config`, and a body: `self.transformer`, or itself.
    """

    @staticmethod
    def as_config(config):
        """Returns an `OpenAIGPTConfig` from one or from a dict of its fields."""
        if isinstance(config, OpenAIGPTConfig):
            return config
        if isinstance(config, dict):
            return OpenAIGPTConfig.from_dict(config)
        raise ValueError(
            "`config` must be an OpenAIGPTConfig or a dict. "
            f"Received: {type(config).__name__}."
        )

    def run_body(self, inputs, training):
        """Returns the body's `BaseModelOutput` for a head's unpacked inputs."""
        # Keras takes tensors in a dict, and everything else by keyword.
        tensors = {name: inputs[name] for name in TENSORS if name in inputs}
        options = {name: inputs[name] for name in OPTIONS if name in inputs}
        options["return_dict"] = True
        return self.transformer(tensors, training=training, **options)

    def asked_for(self, inputs, hidden_states, attentions):
        """Returns the optional entries of an output that this call asks for."""
        wanted = {}
        for name, values in (
            ("hidden_states", hidden_states),
            ("attentions", attentions),
        ):
            option = inputs.get(f"output_{name}")
            if option is None:
                option = getattr(self.config, f"output_{name}")
            if option:
                wanted[name] = tuple(values)
        return wanted

    def finish(self, output, inputs):
        """Returns `output`, as a tuple if `return_dict` is False."""
        return_dict = inputs.get("return_dict")
        if return_dict is None:
            return_dict = self.config.return_dict
        return output if return_dict else output.to_tuple()

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Returns the model's own loss if the batch held labels, else Keras's.

        Keras calls this in `fit` and `evaluate`. With labels among the inputs
        (and no separate `y`) the output has a `loss`, and that is what is
        trained on.
        """
        if y is None and isinstance(y_pred, dict) and "loss" in y_pred:
            loss = ops.mean(y_pred["loss"])
            for extra in self.losses:
                loss = loss + ops.sum(extra)
            return loss
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def get_config(self):
        return {
            "config": self.config.to_dict(),
            "name": self.name,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
        }

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def body_of(model):
    """Returns the `OpenAIGPTModel` inside a model: itself, if it is one.

    A function, since Keras walks a model's properties when it saves, and would
    walk one that returns the model forever.
    """
    return getattr(model, "transformer", model)


def weights_by_path(model):
    """Returns the model's variables by their path in the checkpoint's terms.

    Args:
        model: One of the four model classes.

    Returns:
        Dict from a path such as "h_0/attn/c_attn/kernel" or "score/kernel" to
        the Keras variable: paths do not depend on the names of models.
    """
    body = body_of(model)
    variables = {_below(body, variable): variable for variable in body.weights}
    known = {id(variable) for variable in body.weights}
    for variable in model.weights:
        if id(variable) not in known:
            variables[_below(model, variable)] = variable
    return variables


def _below(model, variable):
    return variable.path.split("/", 1)[1] if "/" in variable.path else variable.path
