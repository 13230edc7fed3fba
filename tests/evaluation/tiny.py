"""Configs that train in seconds."""


def tiny(module, folder, **data):
  """Shrinks a config, whose data go to a folder."""
  config = module.get_config()
  config.data.update(
    folder=str(folder / "data"), **{"num_train": 40, "num_eval": 6, **data}
  )
  config.model.update(hidden_size=8, num_layers=1, num_heads=2, cond_size=4)
  config.optimizer.warmup_steps = 1
  config.train.update(num_steps=2, batch_size=8, report_every=1)
  config.sampler.steps = 2
  return config.to_dict()
