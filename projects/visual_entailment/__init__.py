"""A sentence entailed, contradicted or left open by a picture (SNLI-VE)."""
