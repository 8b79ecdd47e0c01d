"""Floor 3: the decoder, layer by layer, each with its price. Weight names are those of the stock architecture it exports to."""
