"""Networks: nn.Modules that are told noise levels and labels, and never see a noise schedule, a file or a dataset."""
