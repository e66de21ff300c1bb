"""How far fake users push items: attacks on a dataset, models that fall for them, and defences."""
